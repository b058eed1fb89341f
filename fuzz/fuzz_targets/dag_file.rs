//! An à la mode file from anybody: reading and verifying it ends, with a file or an error, and takes memory in proportion.
//!
//! What it does to bytes that verify: their hashes hold by construction, so a found `File` is only looked at again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use provender_client::dag::File;

fuzz_target!(|bytes: &[u8]| {
    match File::parse(bytes, "fuzz/") {
        Ok(file) => {
            for task in file.tasks() {
                assert!(task.name.as_str().starts_with("fuzz/") && task.key.scheme() == "alamode");
                assert!(task.raw.len() <= bytes.len());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

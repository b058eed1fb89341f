//! `provender verify`.

use std::process::ExitCode;

use provender_client::Verified;
use provender_core::json;
use serde_json::json;

use super::Session;
use crate::args;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn verify(session: &Session, what: args::Verify) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let bar = print::bytes_bar("verifying", session.quiet || session.json);
    let show = |so_far: Verified| {
        bar.set_message(print::count(so_far.blobs, "blob"));
        bar.set_position(so_far.read);
    };
    let verified = client.verify(what.deep, what.rate.unwrap_or(0), show).await;
    bar.finish_and_clear();
    let Verified { blobs, bytes, read, lost, found, rows, outboards, mended, damaged, damage } = verified?;
    let code = ExitCode::from(u8::from(lost > 0 || damaged > 0));
    if session.json {
        let document = json!({
            "v": json::V, "deep": what.deep, "blobs": blobs, "bytes": bytes, "read": read, "lost": lost, "found": found,
            "rows": rows, "outboards": outboards, "mended": mended, "damaged": damaged, "damage": damage,
        });
        print::document(&document)?;
        return Ok(code);
    }
    let (blobs, bytes, rows) = (print::count(blobs, "blob"), print::size(bytes), print::count(rows, "row"));
    match lost {
        0 => print::line(format!("{blobs} ({bytes}): all are there and right"))?,
        lost => print::line(format!("{blobs} ({bytes}): {lost} lost, {found} of them found just now"))?,
    }
    if outboards > 0 {
        let outboards = print::count(outboards, "outboard");
        match mended {
            0 => print::line(format!("{outboards}: all are right"))?,
            mended => print::line(format!("{outboards}: {mended} missing or damaged, and written anew"))?,
        }
    }
    match damaged {
        0 => print::line(format!("{rows} of metadata: all are right"))?,
        damaged => print::line(format!("{rows} of metadata: damaged in {}", print::count(damaged, "place")))?,
    }
    damage.iter().try_for_each(|what| print::line(format!("  {what}")))?;
    if lost > 0 {
        session.say("the daemon's log names them; what was made of them is LOST until it is run or stored anew");
    }
    Ok(code)
}

//! The names of objects.
//!
//! Invariant: the order of names is the order of locations, and a listing, which tells sizes, tells locations.

use object_store::path::Path;
use provender_core::blob::Form;

use super::Store;
use crate::Location;

const OBJECTS: &str = "objects";
const UPLOADS: &str = "uploads";
const ZST: &str = ".zst";

impl Store {
    /// Where the objects of blobs are.
    pub(super) fn objects(&self) -> Path {
        self.prefix.clone().join(OBJECTS)
    }

    /// Where multipart uploads are named.
    pub(super) fn uploads(&self) -> Path {
        self.prefix.clone().join(UPLOADS)
    }

    /// The object of a blob.
    pub(super) fn object(&self, location: &Location) -> Path {
        self.objects().join(format!("{:02x}", location.digest.hash[0])).join(name(location))
    }
}

/// A location's own name; what frames take is told by their object's size, which is not known before they are sent.
pub(super) fn name(location: &Location) -> String {
    let raw = Location { form: Form::Raw, ..*location }.to_string();
    match location.form {
        Form::Raw => raw,
        Form::Frames { .. } => raw + ZST,
    }
}

/// The location of an object of this size, if it is one's.
pub(super) fn parse(path: &Path, size: u64) -> Option<Location> {
    let name = path.filename()?;
    let (raw, form) = match name.strip_suffix(ZST) {
        Some(raw) => (raw, Form::Frames { stored: size }),
        None => (name, Form::Raw),
    };
    let location: Location = raw.parse().ok()?;
    // A name that has frames' size in it is a file's.
    (location.form == Form::Raw).then_some(Location { form, ..location })
}

#[cfg(test)]
mod tests {
    use provender_core::Digest;

    use super::*;

    #[test]
    fn names_tell_locations_with_the_sizes_beside_them() {
        let digest = Digest { hash: [0xab; 32], size: 5 };
        for form in [Form::Raw, Form::Frames { stored: 3 }] {
            let location = Location { digest, nonce: 7, form };
            let path = Path::from("some/prefix/objects/ab").join(name(&location));
            assert_eq!(parse(&path, location.stored()), Some(location));
        }
        let file = Location { digest, nonce: 7, form: Form::Frames { stored: 3 } };
        for foreign in ["provender-blobs", "x.zst", "", &file.to_string()] {
            assert_eq!(parse(&Path::from("objects/ab").join(foreign), 3), None, "{foreign}");
        }
    }
}

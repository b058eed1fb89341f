//! The names of objects.
//!
//! Invariant: the order of names is the order of locations, and a listing, which tells sizes, tells locations.

use object_store::path::Path;
use provender_core::blob::Form;
use provender_core::digest::unhex;

use super::Store;
use crate::Location;

const OBJECTS: &str = "objects";
const UPLOADS: &str = "uploads";
const PACKS: &str = "packs";
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

    /// Where packs are.
    pub(super) fn packs(&self) -> Path {
        self.prefix.clone().join(PACKS)
    }

    /// The object of a pack.
    pub(super) fn pack(&self, nonce: u64) -> Path {
        self.packs().join(format!("{nonce:016x}"))
    }

    /// The object of a blob, or that of its pack.
    pub(super) fn object(&self, location: &Location) -> Path {
        if let Form::Pack { .. } = location.form {
            return self.pack(location.nonce);
        }
        self.objects().join(format!("{:02x}", location.digest.hash[0])).join(name(location))
    }
}

/// A location's own name; what frames take is told by their object's size, which is not known before they are sent.
pub(super) fn name(location: &Location) -> String {
    let raw = Location { form: Form::Raw, ..*location }.to_string();
    match location.form {
        Form::Raw | Form::Pack { .. } => raw,
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

/// The number of the pack that an object is, if it is one.
pub(super) fn parse_pack(path: &Path) -> Option<u64> {
    let name = path.filename()?;
    let nonce = u64::from_be_bytes(unhex(name)?);
    // Upper-case digits are nobody's.
    (format!("{nonce:016x}") == name).then_some(nonce)
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

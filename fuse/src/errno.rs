//! The one place that says which error a process meets for which fault.

use fuser::Errno;

use crate::source::SourceError;
use crate::view::ViewError;

/// The error number for a fault.
pub(crate) fn errno(error: &ViewError) -> Errno {
    match error {
        ViewError::Source(error) => match error {
            SourceError::NotFound => Errno::ENOENT,
            SourceError::Stale => Errno::ESTALE,
            // One number for all that may be well again later, which every program knows; the log says which it was.
            SourceError::Damaged { .. } | SourceError::Unavailable { .. } | SourceError::TimedOut => Errno::EIO,
        },
        ViewError::Io(error) => Errno::from_i32(error.raw_os_error()),
        ViewError::NotFound => Errno::ENOENT,
        // The kernel looks the path up again after this one.
        ViewError::Forgotten | ViewError::Retired => Errno::ESTALE,
        ViewError::NoHandle => Errno::EBADF,
        ViewError::NotDirectory => Errno::ENOTDIR,
        ViewError::IsDirectory => Errno::EISDIR,
        ViewError::NotLink => Errno::EINVAL,
        ViewError::NotFile => Errno::EINVAL,
        ViewError::NoAttribute => Errno::ENODATA,
        ViewError::LongName | ViewError::LongTarget { .. } => Errno::ENAMETOOLONG,
        ViewError::TooLarge { .. } => Errno::EFBIG,
    }
}

/// Whether a fault is worth a line in the log: the store's, not the caller's.
pub(crate) fn is_fault(error: &ViewError) -> bool {
    use SourceError::{Damaged, TimedOut, Unavailable};
    match error {
        ViewError::Source(error) => matches!(error, Damaged { .. } | Unavailable { .. } | TimedOut),
        ViewError::Io(_) | ViewError::TooLarge { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_told_from_what_is_broken() {
        let of = |error: SourceError| i32::from(errno(&ViewError::Source(error)));
        assert_eq!(of(SourceError::NotFound), rustix::io::Errno::NOENT.raw_os_error());
        assert_eq!(of(SourceError::Stale), rustix::io::Errno::STALE.raw_os_error());
        assert_eq!(of(SourceError::Damaged { what: String::new() }), rustix::io::Errno::IO.raw_os_error());
        assert_eq!(of(SourceError::TimedOut), rustix::io::Errno::IO.raw_os_error());
    }
}

//! What can go wrong, and the errno that a program is told.

use alloc::string::{String, ToString};

use rsext4::{Ext4Error, Ext4ErrorKind};

use crate::device::DeviceError;

/// An operation on the file system failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// there is no such file or directory
    #[error("there is no such file or directory")]
    NotFound,
    /// the name is taken
    #[error("the name is taken")]
    AlreadyExists,
    /// that is not a directory
    #[error("that is not a directory")]
    NotDirectory,
    /// that is a directory
    #[error("that is a directory")]
    IsDirectory,
    /// the directory is not empty
    #[error("the directory is not empty")]
    NotEmpty,
    /// the device is full
    #[error("the device is full")]
    NoSpace,
    /// the file would be too large
    #[error("the file would be too large")]
    FileTooLarge,
    /// the name is longer than 255 bytes
    #[error("the name is longer than 255 bytes")]
    NameTooLong,
    /// that cannot be done with this file or name
    #[error("that cannot be done with this file or name")]
    Invalid,
    /// the file has too many names
    #[error("the file has too many names")]
    TooManyLinks,
    /// the file may not be changed
    #[error("the file may not be changed")]
    NotPermitted,
    /// there is no memory left
    #[error("there is no memory left")]
    NoMemory,
    /// {0}
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// the device failed in the middle of this
    #[error("the device failed in the middle of this")]
    Io,
    /// the device refused a write before: nothing is written until it is mounted again
    #[error("the device refused a write before: nothing is written until it is mounted again")]
    Stopped,
    /// the file system on the device is damaged: {0}
    #[error("the file system on the device is damaged: {0}")]
    Damaged(String),
    /// the device has {capacity_bytes} bytes, a new file system needs {needed_bytes}
    #[error("the device has {capacity_bytes} bytes, a new file system needs {needed_bytes}")]
    TooSmall {
        /// in bytes
        capacity_bytes: u64,
        /// in bytes
        needed_bytes: u64,
    },
    /// the device holds something else than this file system, and is left alone
    #[error("the device holds something else than this file system, and is left alone")]
    Foreign,
    /// this file system is not kept here: {0}
    #[error("this file system is not kept here: {0}")]
    Unsupported(String),
}

impl DiskError {
    /// The errno of Linux on x86-64 (`asm-generic/errno-base.h`, `errno.h`).
    pub fn errno(&self) -> i32 {
        match self {
            DiskError::NotPermitted => 1,
            DiskError::NotFound => 2,
            DiskError::Device(_) | DiskError::Io | DiskError::Stopped | DiskError::Damaged(_) => 5,
            DiskError::NoMemory => 12,
            DiskError::AlreadyExists => 17,
            DiskError::NotDirectory => 20,
            DiskError::IsDirectory => 21,
            DiskError::Invalid | DiskError::Foreign => 22,
            DiskError::FileTooLarge => 27,
            DiskError::NoSpace | DiskError::TooSmall { .. } => 28,
            DiskError::TooManyLinks => 31,
            DiskError::NameTooLong => 36,
            DiskError::NotEmpty => 39,
            DiskError::Unsupported(_) => 95,
        }
    }
}

impl From<Ext4Error> for DiskError {
    fn from(error: Ext4Error) -> DiskError {
        match error.kind() {
            Ext4ErrorKind::NotFound => DiskError::NotFound,
            Ext4ErrorKind::AlreadyExists => DiskError::AlreadyExists,
            Ext4ErrorKind::NotDirectory => DiskError::NotDirectory,
            Ext4ErrorKind::IsDirectory => DiskError::IsDirectory,
            Ext4ErrorKind::NotEmpty => DiskError::NotEmpty,
            Ext4ErrorKind::NoSpace | Ext4ErrorKind::QuotaExceeded => DiskError::NoSpace,
            Ext4ErrorKind::FileTooLarge | Ext4ErrorKind::Overflow => DiskError::FileTooLarge,
            Ext4ErrorKind::TooManyLinks => DiskError::TooManyLinks,
            Ext4ErrorKind::PermissionDenied | Ext4ErrorKind::ReadOnly => DiskError::NotPermitted,
            Ext4ErrorKind::NoMemory => DiskError::NoMemory,
            Ext4ErrorKind::InvalidInput | Ext4ErrorKind::BadFileDescriptor | Ext4ErrorKind::Busy => DiskError::Invalid,
            Ext4ErrorKind::Io | Ext4ErrorKind::Timeout | Ext4ErrorKind::JournalAborted => DiskError::Io,
            Ext4ErrorKind::Corrupted
            | Ext4ErrorKind::ChecksumMismatch
            | Ext4ErrorKind::BadSuperblock
            | Ext4ErrorKind::InvalidMagic => DiskError::Damaged(error.to_string()),
            Ext4ErrorKind::UnsupportedFeature | Ext4ErrorKind::UnsupportedCapability | Ext4ErrorKind::Unsupported => {
                DiskError::Unsupported(error.to_string())
            }
        }
    }
}

//! Images: a content-addressed store of what containers run, without a daemon.
//!
//! ```text
//! images/
//!   lock                    writers hold it exclusively: the command line works beside a kubelet
//!   index.json              name → manifest, config and layers; replaced by rename, never edited
//!   blobs/sha256/<hex>      manifests, configs and layers as they came, digests verified
//!   layers/<hex>/           a layer unpacked, ready to be an overlay lower directory
//!   use/<hex>               locked shared by each shim that runs a container of that image
//! ```
//!
//! An image enters by `import` (OCI layout or archive, or `docker save` archive); nothing is visible
//! before the index names it, so a crash half way leaves only garbage that the next import reuses.
//! A layer's directory is named by its diff id, so images share layers. An image that a container
//! runs cannot be removed: its shim holds a shared lock on `use/<hex>`, and the kernel drops the
//! lock with the shim, however that dies.
//!
//! Pulling from registries is not built; a missing image says how to import one.

mod archive;
mod builtin;
mod reference;
mod store;
mod unpack;

pub use reference::{Reference, ReferenceError};
pub use store::{Image, ImageConfig, ImageError, ImageStore, ImageSummary, Imported};

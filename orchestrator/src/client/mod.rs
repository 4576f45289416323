//! How components reach the store and live by it.
//!
//! [`etcd`] speaks the store's protocol. On it stand, in reading order: typed [`view`]s of objects,
//! the [`cache`] of a kind kept by list and watch, the pure work [`queue`], the [`controller`] loop,
//! the [`api`] by which a component writes and which remembers what it wrote, the recorder of
//! [`events`], and leader [`election`]. A [`Context`] is what a component is started with.

pub mod api;
pub mod cache;
pub mod condition;
mod context;
pub mod controller;
pub mod election;
pub mod etcd;
pub mod events;
pub mod queue;
mod reflector;
pub mod view;

pub use self::api::{Api, Error};
pub use self::cache::{AnyCache, Cache, Change};
pub use self::context::{Caches, Context};
pub use self::controller::{Controller, Next, Work};
pub use self::events::{Recorder, Severity};

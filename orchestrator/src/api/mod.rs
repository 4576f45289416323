//! The object model: what kinds there are, what their objects must look like and how they are
//! changed, selected and shown.
//!
//! Everything here is a function of its arguments. The current time is passed in, nothing is read
//! or sent, and the same input always gives the same answer.

pub mod cidr;
pub mod convert;
pub mod decode;
pub mod defaults;
pub mod kinds;
pub mod lifecycle;
pub mod object;
pub mod patch;
pub mod quantity;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;
pub mod validate;

pub use self::cidr::Cidr;
pub use self::kinds::Kind;
pub use self::object::{Key, Object, OwnerReference};
pub use self::quantity::Quantity;
pub use self::selector::{FieldSelector, LabelSelector, Selector};
pub use self::status::Status;

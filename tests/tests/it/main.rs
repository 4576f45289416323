//! Every end-to-end suite, in one binary.

#![expect(missing_docs, reason = "a test's name and first comment are its documentation")]

mod bad_input;
mod crash;
mod etcdctl;
mod hello;
mod tidy;

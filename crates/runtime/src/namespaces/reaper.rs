//! The first process of a shared pid namespace.

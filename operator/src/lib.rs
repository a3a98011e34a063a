//! Resource types, validation and (later) the controllers.

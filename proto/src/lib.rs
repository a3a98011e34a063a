//! The app-facing gRPC API and its generated types.

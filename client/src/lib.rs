//! The native async client of the mesh.

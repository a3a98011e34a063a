//! The localhost endpoint of an application pod.

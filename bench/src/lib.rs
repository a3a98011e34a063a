//! Side-by-side benchmarks against peers, and microbenchmarks.

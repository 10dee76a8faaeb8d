"""A drop-in `multiprocessing` on an engine in Rust."""

"""From a source to a working model: verified files, staging, loading, devices, the pool."""

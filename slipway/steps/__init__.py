"""The steps of a release, one function each: records in, records out, bytes in the object store."""

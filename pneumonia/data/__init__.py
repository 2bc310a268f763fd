"""Turn X-ray files into batches: releases, manifest, splits, cache, data module."""

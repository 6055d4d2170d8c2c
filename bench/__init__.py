"""The benchmark: every figure beside what it is measured against, in one run (`make bench`)."""

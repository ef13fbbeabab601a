"""The fast paths of serving on CPUs: C++ of ours, and torch's products laid out for the processor."""

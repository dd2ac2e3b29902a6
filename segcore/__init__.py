"""Semantic segmentation from shards to scores. Knows torch; knows no orchestrator."""

import os

# torch gives every large tensor's memory back and takes it anew, on a CPU at the price of a fault
# for each 4 kB of it: up to a quarter of a network's time. With pages of 2 MB there are few. It
# looks only once, before the first tensor; whoever wants it otherwise sets it to 0.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

"""Semantic segmentation from shards to scores. Knows torch; knows no orchestrator."""

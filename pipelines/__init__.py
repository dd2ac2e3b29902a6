"""The verbs of the pipeline: thin stages that read ``params.yaml`` and call ``segcore``."""

"""The datasets that a config names -> checked and registered with detectron2."""

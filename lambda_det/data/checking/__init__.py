"""A dataset looked at and written clean, also of other formats than COCO's: check_data."""

"""What of the environment works, and how to mend the rest.

This room runs where others cannot even be imported: detectron2 or torch may be missing or broken.
So its files import nothing beyond the standard library at their top, and each other relatively:
``tools/doctor.py`` loads the folder alone, without ``lambda_det`` around it.
"""

# COCO with lambda_det's mapper and data loaders. The recipes set the augmentations of the training.
from detectron2.config import LazyCall as L
from detectron2.data import get_detection_dataset_dicts
from detectron2.data import transforms as T

from lambda_det.config import PILLOW_LIMIT
from lambda_det.data import LambdaDatasetMapper, detection_test_loader, training_loader
from lambda_det.data.augmentations import keep_one_pixel
from lambda_det.evaluation import CocoMetricsEvaluator

dataloader = dict(
    train=L(training_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(LambdaDatasetMapper)(
            is_train=True,
            augmentations=L(keep_one_pixel)(
                augmentations=[
                    L(T.ResizeShortestEdge)(
                        short_edge_length=(640, 672, 704, 736, 768, 800),
                        max_size=1333,
                        sample_style="choice",
                    ),
                    L(T.RandomFlip)(horizontal=True),
                ]
            ),
            image_format="RGB",
            use_instance_mask=True,
            instance_mask_format="polygon",
            exif="auto",  # lambda_det: INPUT.EXIF, WHITE_LEVEL and MAX_PIXELS
            white_level=0,
            max_pixels=PILLOW_LIMIT,
        ),
        total_batch_size=16,
        num_workers=4,
        skip_unreadable=False,  # lambda_det: DATALOADER.SKIP_UNREADABLE
    ),
    test=L(detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(LambdaDatasetMapper)(
            is_train=False,
            augmentations=L(keep_one_pixel)(
                augmentations=[
                    L(T.ResizeShortestEdge)(
                        short_edge_length=800, max_size=1333, sample_style="choice"
                    )
                ]
            ),
            image_format="RGB",
            use_instance_mask=True,
            instance_mask_format="polygon",
            exif="${dataloader.train.mapper.exif}",
            white_level="${dataloader.train.mapper.white_level}",
            max_pixels="${dataloader.train.mapper.max_pixels}",
        ),
        num_workers=4,
        skip_unreadable="${dataloader.train.skip_unreadable}",
    ),
    # Without an output_dir, the evaluator writes into train.output_dir/inference.
    evaluator=L(CocoMetricsEvaluator)(
        dataset_name="${..test.dataset.names}", tasks=("bbox", "segm")
    ),
)

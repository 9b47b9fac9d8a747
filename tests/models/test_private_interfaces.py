"""What lwexp.models uses of timm and transformers beyond their documentation: a test fails by name if it changes."""

from __future__ import annotations

import pytest
import timm


def test_timm_describes_its_models_for_timm_source() -> None:
    from timm.data.config import resolve_data_config
    from timm.models import get_deprecated_models, get_pretrained_cfg, is_model_pretrained

    declared = get_pretrained_cfg("vit_tiny_patch16_224")
    assert declared is not None
    assert (declared.input_size, declared.fixed_input_size) == ((3, 224, 224), True)
    assert is_model_pretrained("resnet18")
    assert not is_model_pretrained("resnet18.no_such_tag")
    assert all(value is None or isinstance(value, str) for value in get_deprecated_models().values())
    model = timm.create_model("test_vit")
    resolved = resolve_data_config({}, pretrained_cfg=model.pretrained_cfg)  # type: ignore[no-untyped-call]
    assert resolved.keys() >= {"mean", "std", "interpolation", "crop_pct"}


def test_auto_classes_map_configs_to_networks_for_huggingface() -> None:
    transformers = pytest.importorskip("transformers")
    mapping = transformers.AutoModelForSequenceClassification._model_mapping
    assert mapping[transformers.BertConfig] is transformers.BertForSequenceClassification
    assert transformers.ViTConfig not in mapping


def test_config_classes_are_listed_for_huggingface_config() -> None:
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    assert auto.CONFIG_MAPPING_NAMES["bert"] == "BertConfig"


def test_image_processors_are_read_as_dicts_for_huggingface() -> None:
    transformers = pytest.importorskip("transformers")
    assert callable(transformers.image_processing_utils.BaseImageProcessor.get_image_processor_dict)

import pytest

from histodiff.models.peaks import device_name, peak_flops


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756), ("NVIDIA H200", 989.4),
        ("NVIDIA L4", 121), ("NVIDIA L40S", 362),
    ],
)  # fmt: skip
def test_known_gpu_has_the_peak_of_its_data_sheet(name, tflops):
    assert peak_flops(name, precision="bf16") == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("NVIDIA H100 80GB HBM3", "fp32"), ("cpu", "bf16"), ("NVIDIA L40", "bf16"),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "bf16"),
    ],
)  # fmt: skip
def test_what_is_not_known_has_none(name, precision):
    assert peak_flops(name, precision=precision) is None


def test_cpu_is_named_as_it_is():
    assert device_name("cpu") == "cpu"

from histodiff.training.loss_scale import LossScale


def test_loss_scale_halves_on_overflow_and_doubles_after_many_good_steps():
    scale = LossScale(None)
    scale.update(overflowed=True)
    assert scale.value == 2.0**15
    for _ in range(2000):
        scale.update(overflowed=False)
    assert scale.value == 2.0**16


def test_loss_scale_fixed_never_moves_but_gives_up():
    scale = LossScale(128.0)
    for _ in range(31):
        scale.update(overflowed=True)
    assert not scale.is_hopeless
    scale.update(overflowed=True)
    assert scale.value == 128.0
    assert scale.is_hopeless


def test_loss_scale_loaded_goes_on_where_it_was():
    first, second = LossScale(None), LossScale(None)
    for step in range(1500):
        first.update(overflowed=step == 3)
    second.load(first.state())
    for _ in range(600):
        first.update(overflowed=False)
        second.update(overflowed=False)
        assert first.value == second.value
    assert first.value == 2.0**16

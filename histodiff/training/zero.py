"""What a rank owns under each stage of DeepSpeed's ZeRO, and where it lies.

The weights that the optimizer of a rank updates are its *parts*: all parameters (stage 0), one flat
range of all of them (1 and 2), or a range of each one behind the other (3). This is read from the
insides of DeepSpeed's engine, and is the only place that knows them.
"""

from typing import Any

import torch
import torch.distributed

from histodiff.training.partitions import Fragment, whole_fragments


def owned_parts(engine: Any, *, stage: int) -> list[torch.Tensor]:
    """What the optimizer of this rank updates: the keys of its state."""
    match stage:
        case 0:
            return list(engine.module.parameters())
        case 1 | 2:
            return list(engine.optimizer.single_partition_of_fp32_groups)
        case _:
            return list(engine.optimizer.fp32_partitioned_groups_flat)


def owned_fragments(engine: Any, *, stage: int) -> list[Fragment]:
    """What the parts of this rank hold."""
    parameters = list(engine.module.named_parameters())
    match stage:
        case 0:
            return whole_fragments(parameters)
        case 1 | 2:
            return [
                _flat_fragment(name, parameter._hp_mapping)
                for name, parameter in parameters
                if parameter._hp_mapping is not None
            ]
        case _:
            return [_cut_fragment(name, p, engine.optimizer) for name, p in parameters]


@torch.no_grad()
def spread_parts(engine: Any, *, stage: int) -> None:
    """Brings the weights that are computed with up to date with the parts; all ranks call it."""
    optimizer = engine.optimizer
    match stage:
        case 1 | 2:
            optimizer.update_lp_params()
        case 3:
            optimizer._partition_all_parameters()
            for number in range(len(optimizer.fp32_partitioned_groups_flat)):
                optimizer._reassign_or_swap_out_partitioned_parameters(number)
            # Small weights stay gathered between steps.
            if optimizer.persistent_parameters:
                optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def _flat_fragment(name: str, mapping: Any) -> Fragment:
    """Under ZeRO 1 and 2 a rank owns a range of all parameters, one behind the other."""
    here, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
    return Fragment(name, here.start, here.numel, mapping.param_group_index, flat.start)


def _cut_fragment(name: str, parameter: Any, optimizer: Any) -> Fragment:
    """Under ZeRO 3 every parameter is cut into equal ranges, the last ones padded."""
    part, offset, numel = optimizer.grad_position[optimizer.get_param_id(parameter)]
    start = min(torch.distributed.get_rank() * numel, parameter.ds_numel)
    return Fragment(name, start, min(numel, parameter.ds_numel - start), part, offset)

"""What pre-training reads: the mixture of latent stores, and the checks that it may be one."""

from dataclasses import dataclass

import pyarrow as pa

from histodiff.data_prep.index.disjoint import assert_disjoint
from histodiff.latents import LatentMixture, LatentStore
from histodiff.pretraining.spec import PretrainSpec
from histodiff.runtime.symmetries import ChannelSymmetries
from histodiff.storage import storage_path


@dataclass(frozen=True)
class TrainingDataset:
    """What is trained on."""

    stores: tuple[LatentStore, ...]
    mixture: LatentMixture

    @classmethod
    def open(cls, spec: PretrainSpec) -> "TrainingDataset":
        """The mixture that ``spec`` describes; every rank opens it for itself."""
        stores = tuple(LatentStore.open(storage_path(share.url)) for share in spec.stores)
        # Over the whole mixture: one store must not train on a patient that another validates on.
        columns = ["slide_id", "patient_id", "split"]
        assert_disjoint(pa.concat_tables([store.distinct_rows(columns) for store in stores]))
        weights = [share.weight for share in spec.stores]
        mixture = LatentMixture(
            stores,
            weights=weights,
            split="train",
            seed=spec.seed,
            batch=spec.train.batch,
            num_lanes=spec.num_lanes,
            cache=spec.cache,
        )
        return cls(stores, mixture)

    @property
    def symmetries(self) -> ChannelSymmetries | None:
        """What turning the tissue does to the channels of its latent."""
        return self.stores[0].layout.attributes.symmetries

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)``."""
        _, height, width = self.stores[0].moment_shape
        return (self.stores[0].latent_channels, height, width)

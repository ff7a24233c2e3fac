"""The study part of a sweep: what it names must exist, and is checked before anything runs."""

import pytest

from histodiff.config import identity, parse_config
from histodiff.errors import ConfigError
from histodiff.workflows.sweep import SweepConfig

GROUPS = {"generative": ["selected"], "non_generative": ["real only"]}


def sweep_with(study):
    return parse_config(
        SweepConfig,
        {
            "name": "s", "version": "v1", "artifacts": {},
            "steps": {
                "real": {"command": "classify", "config": {}},
                "selected": {"command": "classify", "config": {}},
            },
            "search": {"slides": {"sets": ["real.budget.count"], "values": [2, 5]}},
            "seeds": [0, 1, 2],
            "arms": [
                {"label": "real only", "step": "real"}, {"label": "selected", "step": "selected"},
            ],
            "control": "real only",
            "study": {"question": "Does it help?", **study},
        },
        source="s.yaml",
    )  # fmt: skip


def test_study_with_known_names_is_kept():
    study = sweep_with(
        {
            "family": [["best generative", "best non_generative"], ["selected", "real only"]],
            "best_of": GROUPS,
            "budget": "slides",
            "goal": {"gain_points": 6.4},
        }
    ).study
    assert study.best_of.members("generative") == ("selected",)
    assert study.goal.worst_points == -1


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"family": [["chosen", "real only"]]}, "'chosen' is none of arms: real only, selected"),
        ({"family": [["selected", "selected"]]}, "compared with itself"),
        ({"family": [["selected", "real only"]] * 2}, "named twice"),
        ({"family": [["best generative", "real only"]]}, "needs `best_of`"),
        ({"best_of": {**GROUPS, "generative": ["real only"]}}, "in both groups"),
        ({"budget": "nuclei"}, "'nuclei' is no axis of search: slides"),
        ({"ceiling": "perfect"}, "study.ceiling: 'perfect' is none of arms"),
    ],
)
def test_study_with_unknown_names_is_refused(study, message):
    with pytest.raises(ConfigError, match=message):
        sweep_with(study)


def test_question_and_protocol_are_words_without_identity():
    one, other = (sweep_with({"protocol": [text]}) for text in ("So.", "Otherwise."))
    assert identity(one) == identity(other)
    assert identity(one) != identity(sweep_with({"replicates": 300}))

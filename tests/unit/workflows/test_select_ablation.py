"""``select`` by the rule `ablation`: another decision by what a finished selection found."""

import pytest

from histodiff.errors import ConfigError
from histodiff.samples import Selection
from histodiff.workflows.select import select
from tests.support.labelled_configs import select_config

CLASSIFIER = {"type": "classifier", "classifier": "real@v1"}
RULES = [
    {"type": "agreement", "extractor": CLASSIFIER},
    {"type": "realism", "extractor": CLASSIFIER, "neighbours": 1},
    {"type": "copies", "extractor": CLASSIFIER, "name": "apart"},
    {"type": "cluster_quota", "extractor": CLASSIFIER, "clusters": 2, "slack": 1.0},
]
NAMES = ["agreement", "realism", "apart", "cluster_quota"]


def all_of(**changes):
    rule = {
        "type": "all_of", "rules": RULES, "rank_by": "realism", "max_per_class": 4,
        "oversampling": 0,
    }  # fmt: skip
    return {**rule, **changes}


def chosen(site, name, rule, **changes):
    artifact = select(select_config(name=name, rule=rule, **changes), site)
    return artifact.manifest.contents, Selection.open(artifact.path).rows


def ablation(of="whole@v1", **changes):
    return {"type": "ablation", "selection": of, **changes}


@pytest.mark.parametrize("rank_by", [None, "agreement", "random"])
@pytest.mark.parametrize("without", [[], *([name] for name in NAMES), NAMES])
def test_ablation_decides_as_the_rule_without_that_criterion(sampled, without, rank_by):
    chosen(sampled, "whole", all_of())
    order = {} if rank_by is None else {"rank_by": rank_by}
    anew, judged = chosen(sampled, "anew", all_of(without=without, **order))
    again, decided = chosen(sampled, "again", ablation(without=without, **order))
    assert decided.equals(judged)
    for key in ("accepted_by_class", "reasons_by_class", "eligible_by_class"):
        assert again[key] == anew[key]


def test_ablation_of_an_ablation_is_refused_as_is_what_has_no_scores(sampled):
    chosen(sampled, "whole", all_of())
    chosen(sampled, "half", ablation(without=["apart"]))
    for of, rule in (("half", "ablation"), ("paper", "centroid")):
        if of == "paper":
            chosen(sampled, "paper", select_config().rule.model_dump(mode="json"))
        with pytest.raises(ConfigError, match=f"is of rule {rule}; name one of rule all_of"):
            chosen(sampled, "more", ablation(f"{of}@v1"))


def test_ablation_cannot_bring_back_what_was_left_out(sampled):
    chosen(sampled, "part", all_of(without=["realism"]))
    chosen(sampled, "same", ablation("part@v1", without=["realism"]))
    with pytest.raises(ConfigError, match="left out realism; name it in"):
        chosen(sampled, "more", ablation("part@v1", without=["apart"]))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"without": ["copies"]}, "has no such criterion; it has agreement, realism, apart"),
        ({"rank_by": "cluster_quota"}, "has no score of that name; give one of agreement"),
    ],
)
def test_ablation_unknown_names_are_told(sampled, changes, told):
    chosen(sampled, "whole", all_of())
    with pytest.raises(ConfigError, match=told):
        chosen(sampled, "more", ablation(**changes))


def test_ablation_of_criteria_whose_reasons_are_one_is_refused(sampled):
    twice = [{**RULES[1], "name": "near", "neighbours": 2}, *RULES]
    chosen(sampled, "whole", all_of(rules=twice))
    with pytest.raises(ConfigError, match="several criteria of type realism"):
        chosen(sampled, "more", ablation())

"""Every architecture still does what docs/models.md says of it."""

import pytest
from conformance import table, zoo
from conformance.driver import run


@pytest.mark.parametrize("name", zoo.NAMES)
def test_an_architecture_does_what_the_table_says(name):
    assert table.verdicts(run(name)) == table.committed()[name], (
        "run `python -m tests.conformance` and look at the change"
    )


def test_at_least_70_architectures_work_with_an_image():
    said = table.committed()
    assert set(said) == set(zoo.NAMES)
    assert sum(image.startswith("works") for _, image in said.values()) >= 70

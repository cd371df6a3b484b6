# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Requirements and markers against the reference implementation (packaging), which only the tests may use."""

from __future__ import annotations

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement as Reference

from ansible_collections.verl.baremetal.plugins.module_utils import pep508

MARKERS = [
    'python_version >= "3.12"', 'python_version < "3.9"', 'python_version == "3.1"', 'python_full_version >= "3.11.2"', "python_version in '3.10 3.11'",
    'platform_system == "Linux" and platform_machine == "x86_64"', 'sys_platform == "win32"', 'sys_platform != "win32"', '"linux" in sys_platform',
    'extra == "dev"', 'extra == "Dev_Tools"', '(extra == "dev" or extra == "all") and python_version > "3.8"', 'os_name == "nt" or (sys_platform == "linux" and python_version >= "3.10")',
    'implementation_name == "cpython"', "platform_python_implementation != 'PyPy'", 'python_version not in "2.7 3.6"', 'platform_machine >= "x"',
    'sys_platform == "linux" and extra == "dev"', 'python_version ~= "3.10"', 'python_version != "3.12.*"',
]  # fmt: skip


@pytest.mark.parametrize("extra", ["", "dev", "dev-tools", "all"])
@pytest.mark.parametrize("python", ["3.8.18", "3.10.13", "3.11.7", "3.12.3"])
@pytest.mark.parametrize("marker", MARKERS)
def test_markers_hold_where_the_reference_says_so(marker: str, python: str, extra: str) -> None:
    environment = pep508.marker_environment(python)
    expected = Marker(marker).evaluate({**environment, "extra": extra})
    assert pep508._Marker(marker, {**environment, "extra": extra}).evaluate() is expected


def test_an_extra_adds_to_what_holds_without_it() -> None:
    environment = pep508.marker_environment("3.12.3")
    assert not pep508.evaluate_marker('extra == "dev"', environment)
    assert pep508.evaluate_marker('extra == "dev"', environment, ["dev"])
    assert pep508.evaluate_marker('sys_platform == "linux"', environment, ["dev"])
    assert pep508.evaluate_marker("", environment)


@pytest.mark.parametrize(
    "line",
    [
        "filelock",
        "typing-extensions>=4.10.0",
        'setuptools; python_version >= "3.12"',
        'nvidia-cudnn-cu12==9.5.1.17; platform_system == "Linux" and platform_machine == "x86_64"',
        "ray[default]>=2.48,!=2.50",
        "Foo.Bar_baz [a, B_c] (>=1.0,<2) ; extra == 'x'",
        "requests [security,tests] >= 2.8.1, == 2.8.* ; python_version < '2.7'",
        "numpy<2",
    ],
)
def test_requirements_read_as_the_reference_reads_them(line: str) -> None:
    mine, reference = pep508.parse_requirement(line), Reference(line)
    assert mine.name == reference.name
    assert mine.extras == {pep508.normalise(extra) for extra in reference.extras}
    assert {part.strip().replace(" ", "") for part in mine.specifier.split(",") if part} == {
        str(clause) for clause in reference.specifier
    }
    assert bool(mine.marker) is (reference.marker is not None)


def test_a_requirement_with_an_address() -> None:
    found = pep508.parse_requirement("apex @ git+https://github.com/NVIDIA/apex@d8200a1 ; sys_platform == 'linux'")
    assert (found.name, found.url, found.marker) == (
        "apex",
        "git+https://github.com/NVIDIA/apex@d8200a1",
        "sys_platform == 'linux'",
    )


@pytest.mark.parametrize("line", ["", ">=1.0", "-e .", "name >>1", "name 1.0", "name (1.0", "\0\x7fELF"])
def test_what_is_no_requirement_is_refused(line: str) -> None:
    with pytest.raises(pep508.InvalidRequirement):
        pep508.parse_requirement(line)


@pytest.mark.parametrize(
    "marker", ["python_version >=", "(python_version > '3'", "python_version > '3' or", "foo == 'x'", "python_version '3'", "'3' not '3'", "os_name == 'a' 'b'", "§", "os_name ~= 'x'"]
)  # fmt: skip
def test_a_malformed_marker_is_refused(marker: str) -> None:
    with pytest.raises(pep508.InvalidRequirement):
        pep508.evaluate_marker(marker, pep508.marker_environment("3.12.3"))

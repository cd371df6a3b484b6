# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ansible_collections.verl.baremetal.plugins.module_utils.wheels import ninja

BUILD = """ninja_required_version = 1.3
cxx = c++

rule compile
  command = $cxx -MMD -MF $out.d $cflags -c $in -o $out
  depfile = $out.d
  deps = gcc

build /b/temp/csrc/a.o: compile /b/csrc/a.cpp
build /b/temp/csrc/odd$ name$:1.o: compile /b/csrc/b.cpp
build /b/temp/lib.so: link /b/temp/csrc/a.o
default /b/temp/lib.so
"""
LOG = "# ninja log v7\n3\t114431\t1795648428096704940\t/b/temp/csrc/a.o\t2c8a790b37cab3a1\nbroken line\n"


def test_the_objects_of_a_build_file_are_its_units():
    assert ninja.objects(BUILD) == ["/b/temp/csrc/a.o", "/b/temp/csrc/odd name:1.o"]


def test_the_log_tells_what_is_finished():
    assert ninja.finished(LOG) == {"/b/temp/csrc/a.o": 114428}


def test_a_unit_counts_when_it_is_in_the_log_and_its_object_is_there(tmp_path):
    folder = tmp_path / "build" / "temp"
    folder.mkdir(parents=True)
    names = [f"{folder}/{n}.o" for n in "abc"]
    (folder / "build.ninja").write_text("".join(f"build {n}: compile x.cpp\n" for n in names))
    (folder / ".ninja_log").write_text("".join(f"1\t2\t3\t{n}\tff\n" for n in names[:2]))
    (folder / "a.o").write_text("")
    (folder / "c.o").write_text("half")  # a compiler was killed while it wrote this one
    assert ninja.count(str(tmp_path)) == (1, 3)
    assert ninja.count(str(tmp_path), hint=73) == (1, 73)


def test_several_extensions_add_up_also_when_one_folder_serves_them_in_turn(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "build.ninja").write_text(f"build {folder}/new.o: compile x.cpp\n")
        (folder / ".ninja_log").write_text(f"1\t2\t3\t{folder}/earlier.o\tff\n")
        (folder / "earlier.o").write_text("")
    assert ninja.count(str(tmp_path)) == (2, 4)


def test_before_the_build_has_told_the_hint_is_all_there_is(tmp_path):
    assert ninja.count(str(tmp_path), hint=26) == (0, 26)

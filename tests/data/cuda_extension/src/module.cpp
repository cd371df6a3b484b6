// Copyright (c) 2026 the verl.baremetal authors
// SPDX-License-Identifier: Apache-2.0
// The Python side of the test extension: how many kernels it holds, and whether their launchers are linked in.

#include <Python.h>

extern "C" {
int launch_0(float*, int);
int launch_1(float*, int);
int launch_2(float*, int);
int launch_3(float*, int);
}

static PyObject* kernels(PyObject*, PyObject*) {
    int (*all[])(float*, int) = {launch_0, launch_1, launch_2, launch_3};
    long count = 0;
    for (auto entry : all) {
        count += entry != nullptr;
    }
    return PyLong_FromLong(count);
}

static PyMethodDef methods[] = {{"kernels", kernels, METH_NOARGS, "How many kernels are linked in."}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "verl_test_kernels", nullptr, -1, methods};

PyMODINIT_FUNC PyInit_verl_test_kernels(void) { return PyModule_Create(&module); }

// Copyright (c) 2026 the verl.baremetal authors
// SPDX-License-Identifier: Apache-2.0
// One unit of the test extension; UNIT tells which.

#include <cuda_runtime.h>

#define NAME_(unit) scale_##unit
#define NAME(unit) NAME_(unit)
#define ENTRY_(unit) launch_##unit
#define ENTRY(unit) ENTRY_(unit)

#ifdef VERL_TEST_BREAK
#error "this unit is broken on purpose"
#endif

__global__ void NAME(UNIT)(float* values, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) {
        values[index] = values[index] * (UNIT + 2) + 1.0f;
    }
}

extern "C" int ENTRY(UNIT)(float* values, int count) {
    NAME(UNIT)<<<(count + 127) / 128, 128>>>(values, count);
    return static_cast<int>(cudaGetLastError());
}

// What runs a grid of threads.
#pragma once

struct Extent {
    unsigned x, y, z;
};

// Runs `call` for each thread of the grid with its arguments.
void emulator_launch(void (*call)(void **), void **arguments, Extent grid, Extent block, unsigned shared);

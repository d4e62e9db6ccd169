/* chase: a linked list through all nodes of the area in pseudo-random order; each load depends on the one before.
 * The successor of a node is a congruential generator of full period modulo the number of nodes, so that the end of
 * any chain is known in closed form. One step: p = *p. */
#include "program.h"

#define MULTIPLIER 0xd1342543de82ef95ull /* Steele and Vigna 2021; 5 modulo 8, so the period is full */

ENTRY void _start(struct parameters *parameters)
{
    const uint64_t base = parameters->base, steps = parameters->steps, seed = parameters->seed;
    const uint64_t mask = parameters->footprint / NODE_BYTES - 1;
    const uint64_t first = random64(seed, 0) & mask, increment = random64(seed, 1) | 1;

    uint64_t node = first;
    for (uint64_t step = 0; step < steps; step++) { /* link only what will be walked */
        const uint64_t next = (node * MULTIPLIER + increment) & mask;
        *word_at(base + node * NODE_BYTES) = base + next * NODE_BYTES;
        node = next;
    }

    uint64_t gva = base + first * NODE_BYTES;
    parameters->phase = PHASE_MEASURED;
    for (uint64_t step = 0; step < steps; step++)
        gva = *word_at(gva);
    finish(parameters, gva);
}

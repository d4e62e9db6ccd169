/* bfs: breadth-first search of a graph in which few vertices have many of the edges, without a branch that depends on data
 * (Green, Dukhan and Vuduc, "Branch-avoiding graph algorithms", SPAA 2015): each edge stores its end behind the queue, and
 * a new vertex moves the queue's end. Half of the area holds 8 edges for each vertex, the next quarter distances, the last
 * one the queue. A finished search starts again, with distances above those of the one before.
 * One step: a vertex off the queue, its distance, and its 8 edges. */
#include "program.h"

enum { EDGES = 8 };

/* Return the number of the vertex that the search finds as number `rank`: neighbours in rank lie far apart. */
static inline uint64_t vertex_of(uint64_t rank, unsigned bits, uint64_t seed)
{
    const uint64_t scramble = GOLDEN >> (64 - bits) | 1; /* odd: each rank has a vertex of its own */
    return (rank * scramble ^ seed) & (((uint64_t)1 << bits) - 1);
}

/* Return the rank that an edge leads to. Vertex r finds 2r + 1 and 2r + 2, as far as there are so many; its other edges lead
 * back to a vertex that has been found, and low ranks have most of them: P(rank) ~ 1 / (rank + 1). */
static inline uint64_t edge_of(uint64_t rank, uint64_t edge, unsigned bits, uint64_t seed)
{
    const uint64_t child = 2 * rank + 1 + edge;
    if (edge < 2 && child >> bits == 0)
        return child;
    const uint64_t found = 2 * rank + 3;
    const unsigned octaves = found >> bits == 0 ? log2_of(found) : bits;
    const uint64_t x = random64(seed, rank * EDGES + edge);
    const uint64_t lowest = (uint64_t)1 << (unsigned)((x >> 48) * octaves >> 16);
    return (lowest | (x & (lowest - 1))) - 1;
}

ENTRY void _start(struct parameters *parameters)
{
    const unsigned bits = log2_of(parameters->footprint / 128);

    for (uint64_t rank = 0; rank < reread(&parameters->steps) && rank >> bits == 0; rank++) /* what will be followed */
        for (uint64_t edge = 0; edge < EDGES; edge++) {
            const uint64_t end = edge_of(rank, edge, bits, reread(&parameters->seed));
            const uint64_t word = vertex_of(rank, bits, reread(&parameters->seed)) * EDGES + edge;
            *word_at(reread(&parameters->base) + word * 8) = vertex_of(end, bits, reread(&parameters->seed));
        }
    const uint64_t distances = parameters->base + parameters->footprint / 2;
    *word_at(distances + parameters->footprint / 4) = vertex_of(0, bits, parameters->seed);

    uint64_t sum = 0, tail = 0;
    parameters->phase = PHASE_MEASURED;
    for (uint64_t step = 0; step < reread(&parameters->steps); step++) {
        const uint64_t before = step >> bits << 32; /* distances of searches before this one are not above */
        const uint64_t head = distances + reread(&parameters->footprint) / 4 + (step - (step >> bits << bits)) * 8;
        if (before >> 32 << bits == step)
            tail = head + 8; /* the root is on the queue already */
        const uint64_t vertex = *word_at(head);
        uint64_t distance = *word_at(distances + vertex * 8);
        if (distance <= before) /* the root */
            distance = before + 1;
        *word_at(distances + vertex * 8) = distance;
        uint64_t row = reread(&parameters->base) + vertex * EDGES * 8;
        do {
            const uint64_t end = *word_at(row);
            uint64_t known = *word_at(distances + end * 8);
            *word_at(tail) = end;
            if (known <= before) {
                known = distance + 1;
                tail += 8;
            }
            *word_at(distances + end * 8) = known;
            sum = (sum << 1 | sum >> 63) + known;
            row += 8;
        } while ((row & (EDGES * 8 - 1)) != 0);
    }
    finish(parameters, sum);
}

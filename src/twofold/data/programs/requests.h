/* What the programs that answer requests share: the rank of a key by Zipf, drawn with whole numbers alone.
 *
 * An octave is drawn by its weight, a rank in it evenly, and the rank is kept with the probability of its place in the
 * octave, a straight line between two places of the table; else all is drawn again. */
#include "program.h"
#include "zipf.h"

enum { DRAWS = 64, PLACE_BITS = 11 }; /* random numbers of one step; log2 of the places of an octave */

/* Return the upper 64 bits of a product of 128; 32-bit code puts it together from halves. */
static inline uint64_t multiply_high(uint64_t one, uint64_t other)
{
#ifdef __SIZEOF_INT128__
    return (uint64_t)((unsigned __int128)one * other >> 64);
#else
    const uint64_t low = (one & 0xffffffff) * (other & 0xffffffff);
    const uint64_t middle = (one >> 32) * (other & 0xffffffff) + (low >> 32);
    const uint64_t carried = (one & 0xffffffff) * (other >> 32) + (middle & 0xffffffff);
    return (one >> 32) * (other >> 32) + (middle >> 32) + (carried >> 32);
#endif
}

/* Return number `draw` of a step's random numbers, worked out anew each time: a part kept from the one before would take a
 * register. */
static inline uint64_t drawn(struct parameters *parameters, uint64_t step, uint64_t draw)
{
    __asm__ volatile("" : "+r"(step));
    return random64(reread(&parameters->seed), step * DRAWS + draw);
}

/* Return a rank, 1 to 2**octaves - 1, from the random numbers from number `draw` on. */
static inline uint64_t zipf_rank(struct parameters *parameters, uint64_t draw, unsigned octaves)
{
    for (;; draw += 2) {
        const uint64_t choice =
            multiply_high(random64(reread(&parameters->seed), draw), zipf_octaves[octaves - 1]);
        const uint64_t inside = random64(reread(&parameters->seed), draw + 1);
        unsigned octave = 0;
        while (choice >= zipf_octaves[octave])
            octave++;
        const uint64_t lowest = (uint64_t)1 << octave, place = (inside & (lowest - 1)) << PLACE_BITS;
        const uint64_t high = zipf_kept[place >> octave], low = zipf_kept[(place >> octave) + 1];
        if (inside >> 32 < high - ((high - low) * (place & (lowest - 1)) >> octave))
            return lowest | (inside & (lowest - 1));
    }
}

/* Add to the answer, in the parameter block: there is no register to spare for it. */
static inline void add_to_result(struct parameters *parameters, uint64_t word)
{
    parameters->result += word;
}

/* Rotate the answer by one, so that the order of steps counts. */
static inline void rotate_result(struct parameters *parameters)
{
    const uint64_t sum = parameters->result;
    parameters->result = sum << 1 | sum >> 63;
}

/* Return the number of the record of a step's rank; hot ranks lie far apart. `shift` : log2 of the bytes of the area that
 * there are to a record. */
static inline uint64_t record_of(struct parameters *parameters, uint64_t step, unsigned shift)
{
    const unsigned bits = log2_of(reread(&parameters->footprint) >> shift);
    const uint64_t rank = zipf_rank(parameters, step * DRAWS, bits);
    return rank * (GOLDEN >> (64 - bits) | 1) & (((uint64_t)1 << bits) - 1);
}

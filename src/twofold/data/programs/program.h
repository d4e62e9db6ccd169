/* What the workload programs share: the parameter block, the random numbers, the way to end.
 *
 * A program is entered at _start with the address of its parameter block in rdi, and uses no stack, no library and no
 * floating point. It touches the parameter block, constants beside its code, and its area: `footprint` bytes from `base`, zero
 * at entry.
 *
 * Built for i386, the same program takes the address in eax. It has too few registers for 64-bit numbers, so it is given
 * a stack, outside its area; and each access of a word is two of half a word, at the same address and 4 bytes on. */
#include <stdint.h>

enum { PHASE_SETUP = 0, PHASE_MEASURED = 1, PHASE_DONE = 2 };

/* base, footprint: the area [gva, bytes; a power of two of at least 64 KiB]. steps: updates, hops, lookups or lines.
 * phase is volatile because whoever records the run waits for its stores. */
struct parameters {
    uint64_t base, footprint, steps, seed;
    volatile uint64_t phase, result;
};

#define GOLDEN 0x9e3779b97f4a7c15ull /* 2**64 divided by the golden ratio, odd */
#define NODE_BYTES 64u

/* Return number `step` of the splitmix64 sequence of `seed`; counted, so that any step can be drawn alone. */
static inline uint64_t random64(uint64_t seed, uint64_t step)
{
    uint64_t z = seed + (step + 1) * GOLDEN;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* Return a parameter, read from the block each time: what is kept in a register for long leaves too few for the rest. */
static inline uint64_t reread(const uint64_t *parameter)
{
    return *(const volatile uint64_t *)parameter;
}

/* Return the word at a gva; volatile: each access in the source is one access of the machine, in this order. */
static inline volatile uint64_t *word_at(uint64_t gva)
{
    return (volatile uint64_t *)(uintptr_t)gva;
}

/* Return log2 of a power of two; a loop, since the 64-bit builtin is a library call in 32-bit code. */
static inline unsigned log2_of(uint64_t power)
{
    unsigned bits = 0;
    while (power >>= 1)
        bits++;
    return bits;
}

/* Hand over the result, then stop; an engine that resumes a halted program finds it halting again. */
static inline __attribute__((noreturn)) void finish(struct parameters *parameters, uint64_t result)
{
    parameters->result = result;
    parameters->phase = PHASE_DONE;
    for (;;)
        __asm__ volatile("hlt");
}

#ifdef __i386__
#define ENTRY __attribute__((noreturn, regparm(1)))
#else
#define ENTRY __attribute__((noreturn))
#endif
ENTRY void _start(struct parameters *parameters);

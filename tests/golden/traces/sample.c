/* What the golden traces were recorded from: loads, stores and modifies over a few pages, no library.
 *
 *     gcc -O1 -static -nostdlib -fno-stack-protector -fcf-protection=none -o sample sample.c
 */
static volatile unsigned long table[4 * 512]; /* four pages */
static volatile unsigned char bytes[8192];

void _start(void)
{
    unsigned long sum = 0;

    for (unsigned long i = 0; i < 12; i++) {
        table[i * 160] = i; /* a store */
        sum += table[i * 97 % 2048]; /* a load */
        __asm__ volatile("incq %0" : "+m"(table[1])); /* a modify */
        bytes[i * 601] = (unsigned char)sum; /* a store of one byte */
    }
    __asm__ volatile("syscall" : : "a"(60), "D"(sum & 1));
}

# Probes of five-level tables, one-dimensionally: a list of accesses from ring 3, with CR4.LA57 on.
#
# This is the ROM that the CPU starts in. The tables under test are a copy whose hidden entry maps the harness: the
# first 4 GiB of machine memory one to one at BASE, for ring 0. The boot tables map the same at 0 too, where the
# program is when it switches paging on. For each record it loads CR3, so that the TLB is empty, and goes to ring 3,
# from where only an exception leads back: #PF, or #GP, which HLT raises there.

# The settings, 8 bytes each.
.set BOOT_CR3,    0
.set TEST_CR3,    8
.set BASE,       16         # linear address of the harness's entry
.set DESCRIPTORS, 24        # linear address of what LGDT and, 16 bytes on, LIDT take
.set STACK,      32         # linear address, as in the TSS
.set RECORDS,    40         # linear address
.set COUNT,      48

# A record: words in, words out.
.set IN_RIP,      0
.set IN_RAX,      8
.set IN_RSP,     16
.set OUT_VECTOR, 32
.set OUT_ERROR,  40
.set OUT_CR2,    48
.set OUT_RAX,    56
.set RECORD,     64

.set MSR_EFER, 0xc0000080
# Selectors; the harness's own descriptor table begins with the same.
.set CODE_32, 8
.set DATA,   16
.set CODE_64, 24
.set USER_DATA, 32 + 3
.set USER_CODE, 40 + 3
.set TASK,   48

.globl _start
_start:
rom:    .fill 8, 8, 0

.balign 8
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
gdt_pointer:
        .word . - gdt - 1
        .long gdt

#include "probe_start.inc"
        movl    $0x1020, %eax               # LA57, PAE
        movl    %eax, %cr4
        movl    rom + BOOT_CR3, %eax
        movl    %eax, %cr3
        movl    $MSR_EFER, %ecx
        movl    $0x900, %eax                # NXE, LME
        xorl    %edx, %edx
        wrmsr
        movl    $0x80010011, %eax           # PG, WP, ET, PE
        movl    %eax, %cr0
        ljmpl   $CODE_64, $long_mode

.code64
long_mode:
        leaq    moved(%rip), %rax
        addq    rom + BASE(%rip), %rax
        jmp     *%rax
moved:  movq    rom + DESCRIPTORS(%rip), %rax
        lgdt    (%rax)
        lidt    16(%rax)
        movl    $TASK, %eax
        ltr     %ax
        movq    rom + STACK(%rip), %rsp
        movq    rom + RECORDS(%rip), %r14
        movq    rom + COUNT(%rip), %r15
        movq    rom + TEST_CR3(%rip), %r12

next:   testq   %r15, %r15
        jz      finished
        movq    %r12, %cr3
        pushq   $USER_DATA
        pushq   IN_RSP(%r14)
        pushq   $2                          # RFLAGS
        pushq   $USER_CODE
        pushq   IN_RIP(%r14)
        movq    IN_RAX(%r14), %rax
        iretq

finished:
        movl    $0x10, %eax                 # tells the harness that all went well
        outl    %eax, $0xf4
stop:   hlt
        jmp     stop

# The exception handlers, where the harness's interrupt descriptors say.
        .org    0x200
general_protection:
        movq    $13, OUT_VECTOR(%r14)
        jmp     back
        .org    0x240
page_fault:
        movq    $14, OUT_VECTOR(%r14)
        movq    %cr2, %rbx
        movq    %rbx, OUT_CR2(%r14)
back:   movq    %rax, OUT_RAX(%r14)
        popq    OUT_ERROR(%r14)
        addq    $40, %rsp                   # RIP, CS, RFLAGS, RSP, SS
        addq    $RECORD, %r14
        decq    %r15
        jmp     next

        .org    0xfff0
.code16
        jmp     real_mode
        .org    0x10000

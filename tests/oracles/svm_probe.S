# Probes of nested page tables under AMD's SVM: a list of VMCBs, each one guest that makes one access.
#
# This is the ROM that the CPU starts in. The loop runs in 32-bit code on paging of the harness's own. Whether that is
# long mode (compatibility mode) or PAE, EFER says, and with it how many levels the nested tables have. What a guest
# starts with and what it ends with is all in its VMCB; each has TLB_CONTROL set, so every probe is a cold walk.

# The settings, 8 bytes each; all addresses are below 4 GiB.
.set CR3,       0           # the host's own tables
.set EFER,      8
.set HOST_SAVE, 16          # a frame for VMRUN
.set VMCBS,     24          # address of the first one; the others follow
.set COUNT,     32

.set MSR_EFER,         0xc0000080
.set MSR_VM_HSAVE_PA,  0xc0010117
.set CODE_32, 8
.set DATA, 16

.globl _start
_start:
rom:    .fill 8, 8, 0

.balign 8
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word . - gdt - 1
        .long gdt

#include "probe_start.inc"
        movl    $0x20, %eax                 # PAE
        movl    %eax, %cr4
        movl    rom + CR3, %eax
        movl    %eax, %cr3
        movl    $MSR_EFER, %ecx
        movl    rom + EFER, %eax
        xorl    %edx, %edx
        wrmsr
        movl    $0x80000011, %eax           # PG, ET, PE
        movl    %eax, %cr0
        movl    $MSR_VM_HSAVE_PA, %ecx
        movl    rom + HOST_SAVE, %eax
        xorl    %edx, %edx
        wrmsr

        movl    rom + VMCBS, %eax
        movl    rom + COUNT, %ebx
next:   vmrun   %eax                        # %eax is restored on the way back; the others the guests leave alone
        addl    $0x1000, %eax
        decl    %ebx
        jnz     next

        movl    $0x10, %eax                 # tells the harness that all went well
        outl    %eax, $0xf4
stop:   hlt
        jmp     stop

        .org    0xfff0
.code16
        jmp     real_mode
        .org    0x10000

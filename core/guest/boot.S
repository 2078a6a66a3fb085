/*
 * The guest's CPL 0: from the loader's entry to CPL 3, and exceptions.
 *
 * How it works
 *
 * Where KVM is software, CPL 0 is emulated at about two million instructions a
 * second, so tables are laid out here at assembly time and code only patches
 * what depends on the link. Nothing returns to CPL 0 but an exception, and that
 * handler writes down what happened and goes on at CPL 3 in crash_main(), which
 * never returns. The guest takes no interrupts (core/guest/abi.h, the door).
 *
 * Page tables: identity map of the first 4 GiB, user-accessible; the first
 * 2 MiB in 4 KiB pages so that page 0 and the stack's guard are absent, this
 * section belongs to CPL 0 and text is read-only. Memory above 4 GiB in 2 MiB
 * pages, by page directories that main.c fills. Accessed and dirty bits are set in advance:
 * setting them would write to (and in a clone copy) the tables' pages.
 *
 * Descriptors hold addresses in pieces that no relocation can express; it works
 * because this section is linked first, inside 64 KiB from 1 MiB (guest.ld).
 */
#include "core/guest/boot.h"

#define BASE 0x100000 /* guest.ld */

/* Page table entry bits: SDM 3A 4.5 */
#define PTE_WRITE   0x02
#define PTE_USER    0x04
#define PTE_TABLE   0x67 /* present, writable, user, accessed, dirty */
#define PTE_PAGE    0x67
#define PTE_LARGE   0xe7 /* and page size */

#define CR0_CLEAR   0x0000000c /* EM, TS */
#define CR0_SET     0x00010022 /* WP, NE, MP */
#define CR4_SET     0x00000600 /* OSFXSR, OSXMMEXCPT */

/* boot_params: Documentation/arch/x86/zero-page.rst */
#define BP_E820_ENTRIES 0x1e8
#define BP_E820_TABLE   0x2d0
#define E820_SIZE       20
#define E820_RAM        1
#define HOLE_START      0xc0000000

#define RFLAGS_IOPL3 0x3002

#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01

	.section .boot, "awx", @progbits
	.code64
	.globl guest_entry
guest_entry:
	cli
	cld
	mov	$boot_stack_end, %esp
	mov	%rsi, %rbp
	xor	%r12d, %r12d
	lgdt	gdt_ptr
	lidt	idt_ptr
	call	map_text
	call	map_high
	mov	$pml4, %eax
	mov	%rax, %cr3
	mov	%cr0, %rax
	and	$~CR0_CLEAR, %eax
	or	$CR0_SET, %eax
	mov	%rax, %cr0
	mov	%cr4, %rax
	or	$CR4_SET, %eax
	mov	%rax, %cr4
	pushq	$SEL_CODE0
	pushq	$1f
	lretq
1:	mov	$SEL_DATA0, %eax
	mov	%eax, %ss
	mov	$SEL_DATA3, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	$SEL_TSS, %eax
	ltr	%ax
	fninit
	call	clock_on
	mov	%rbp, %rdi
	mov	%r12d, %esi
	mov	%r13, %rdx
	mov	%r14d, %ecx
	pushq	$SEL_DATA3
	pushq	$stack_end - 8
	/* Ports by IOPL 3. The TSS has an all-zero bitmap as well: software KVM
	 * looks there all the same, and QEMU's emulated SVM looks there wrongly
	 * after a restore, when the TSS has the busy type. */
	pushq	$RFLAGS_IOPL3
	pushq	$SEL_CODE3
	pushq	$guest_main
	iretq

/* Text is read-only, this section CPL 0's own, the guard absent. */
map_text:
	mov	$pt, %edx
	mov	$sup_first_page, %eax
1:	andb	$~PTE_USER, (%rdx,%rax,8)
	inc	%eax
	cmp	$sup_end_page, %eax
	jb	1b
	mov	$text_first_page, %eax
1:	andb	$~PTE_WRITE, (%rdx,%rax,8)
	inc	%eax
	cmp	$text_end_page, %eax
	jb	1b
	mov	$guard_page, %eax
	movq	$0, (%rdx,%rax,8)
	ret

/* Page directories for memory above 4 GiB: linked in here, at the end of the
 * memory below the hole, and filled at CPL 3 (main.c). %r13: where, %r14: how
 * many. */
map_high:
	xor	%r13d, %r13d		/* end of memory below the hole */
	xor	%edi, %edi		/* end of all */
	movzbl	BP_E820_ENTRIES(%rbp), %ecx
	lea	BP_E820_TABLE(%rbp), %rsi
	mov	$HOLE_START, %r8d
	jmp	2f
1:	mov	(%rsi), %rax
	add	8(%rsi), %rax
	cmpl	$E820_RAM, 16(%rsi)
	lea	E820_SIZE(%rsi), %rsi
	jne	2f
	cmp	%rdi, %rax
	cmova	%rax, %rdi
	cmp	%r8, %rax
	ja	2f
	cmp	%r13, %rax
	cmova	%rax, %r13
2:	dec	%ecx
	jns	1b
	lea	(1 << 30) - 1(%rdi), %r14
	shr	$30, %r14
	sub	$4, %r14
	jbe	8f
	mov	$508, %eax
	cmp	%rax, %r14
	cmova	%rax, %r14
	and	$~0xfff, %r13
	mov	%r14, %rax
	shl	$12, %rax
	sub	%rax, %r13
	lea	PTE_TABLE(%r13), %rax
	xor	%ecx, %ecx
3:	mov	%rax, pdpt + 4 * 8(,%rcx,8)
	add	$0x1000, %rax
	inc	%ecx
	cmp	%r14d, %ecx
	jb	3b
	ret
8:	xor	%r14d, %r14d
	ret

/* kvm-clock, when the hypervisor is KVM and offers it (KVM CPUID leaves); sets
 * %r12 to 1 then. */
clock_on:
	mov	$1, %eax
	cpuid
	bt	$31, %ecx
	jnc	8f
	mov	$0x40000000, %eax
	cpuid
	cmp	$0x4b4d564b, %ebx	/* KVMKVMKVM */
	jne	8f
	cmp	$0x564b4d56, %ecx
	jne	8f
	cmp	$0x4d, %edx
	jne	8f
	mov	$0x40000001, %eax
	cpuid
	bt	$3, %eax
	jnc	8f
	mov	$MSR_KVM_SYSTEM_TIME_NEW, %ecx
	mov	$guest_clock_page + 1, %eax
	xor	%edx, %edx
	wrmsr
	inc	%r12d
8:	ret

/* Exceptions. The processor pushed an error code for some vectors. */
	.altmacro
	.macro vector n
	.if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17) || (\n == 21) || \
		(\n == 29) || (\n == 30)
	.else
	pushq	$0
	.endif
	pushq	$\n
	jmp	exception
	.endm

	.macro vector_entry n
	.p2align 4
	vector \n
	.endm

	.p2align 4
vectors:
	.set i, 0
	.rept 32
	vector_entry %i
	.set i, i + 1
	.endr
	/* All others: nothing may come here, so no number is kept. */
	.p2align 4
vector_other:
	pushq	$0
	pushq	$255
	jmp	exception

exception:
	cld
	push	%rax
	incl	crash_depth
	cmpl	$1, crash_depth
	jne	9f
	cmpl	$0, crash_triple
	jne	8f
	pop	%rax
	pop	crash_regs + CRASH_VECTOR
	pop	crash_regs + CRASH_ERROR
	pop	crash_regs + CRASH_RIP
	pop	crash_regs + CRASH_CS
	pop	%rax
	pop	crash_regs + CRASH_RSP
	mov	%cr2, %rax
	mov	%rax, crash_regs + CRASH_CR2
	mov	$boot_stack_end, %esp
	pushq	$SEL_DATA3
	pushq	$crash_stack_end - 8
	/* Ports by IOPL 3. The TSS has an all-zero bitmap as well: software KVM
	 * looks there all the same, and QEMU's emulated SVM looks there wrongly
	 * after a restore, when the TSS has the busy type. */
	pushq	$RFLAGS_IOPL3
	pushq	$SEL_CODE3
	pushq	$crash_main
	iretq
8:	lidt	no_idt		/* asked for: a triple fault */
	ud2
9:	mov	$DOOR_PORT + DOOR_EVENT, %edx
	mov	$DOOR_EV_CRASH, %eax
	out	%eax, %dx
1:	hlt
	jmp	1b

/* Tables. Access bits are set in advance here, too. */
	.p2align 4
gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* SEL_CODE0 */
	.quad	0x00cf93000000ffff	/* SEL_DATA0 */
	.quad	0x00cff3000000ffff	/* SEL_DATA3 */
	.quad	0x00affb000000ffff	/* SEL_CODE3 */
	.word	TSS_SIZE - 1, tss - BASE	/* SEL_TSS */
	.byte	BASE >> 16, 0x89, 0, 0
	.quad	0
gdt_end:
gdt_ptr:
	.word	gdt_end - gdt - 1
	.quad	gdt
idt_ptr:
	.word	256 * 16 - 1
	.quad	idt
no_idt:
	.word	0
	.quad	0

/* The TSS ends with the I/O permission bitmap (SDM 1 19.5.2): a clear bit
 * allows the port. CPL 3 gets the serial port and the door. */
	.p2align 3
tss:
	.long	0
	.quad	boot_stack_end, 0, 0	/* RSP0-2 */
	.quad	0
	.quad	0, 0, 0, 0, 0, 0, 0	/* IST */
	.quad	0
	.word	0, TSS_BITMAP
tss_bitmap:
	.fill	SERIAL_PORT / 8, 1, 0xff
	.byte	0
	.fill	DOOR_PORT / 8 - SERIAL_PORT / 8 - 1, 1, 0xff
	.byte	0
	.byte	0xff
tss_end:
	.set	TSS_SIZE, tss_end - tss
	.set	TSS_BITMAP, tss_bitmap - tss

	.p2align 4
	.space	768
boot_stack_end:

	.p2align 12
pml4:	.quad	pdpt + PTE_TABLE
	.fill	511, 8, 0
pdpt:	.quad	pd + PTE_TABLE, pd + 0x1000 + PTE_TABLE
	.quad	pd + 0x2000 + PTE_TABLE, pd + 0x3000 + PTE_TABLE
	.fill	508, 8, 0
pt:	.quad	0
	.set	i, 1
	.rept	511
	.quad	i << 12 | PTE_PAGE
	.set	i, i + 1
	.endr
pd:	.quad	pt + PTE_TABLE
	.set	i, 1
	.rept	2047
	.quad	i << 21 | PTE_LARGE
	.set	i, i + 1
	.endr

	.macro gate handler
	.word	\handler - BASE, SEL_CODE0
	.byte	0, 0x8e
	.word	BASE >> 16
	.quad	0
	.endm
idt:	.set	i, 0
	.rept	32
	gate	vectors+i*16
	.set	i, i + 1
	.endr
	.rept	224
	gate	vector_other
	.endr

	.section .bss.cold, "aw", @nobits
	.p2align 12
	.space	2048
crash_stack_end:

	.section .note.GNU-stack, "", @progbits

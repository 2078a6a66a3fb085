/* The guests of these tests: 64-bit code at CPL 0, started at its first byte.
 */
#include "tests/kvm/kvm_test.h"

/* clang-format off */
#define DOOR_DX "	mov	$0x7a0, %dx\n"
#define EVENT_DX "	mov	$0x7a4, %dx\n"
#define CODE(name, code)                                                       \
	__asm__("	.section .rodata\n"                                    \
		"	.globl stub_" name ", stub_" name "_end\n"             \
		"stub_" name ":\n" code                                        \
		"stub_" name "_end:\n"                                         \
		"	.previous\n")

/* 0x2000: how often it came back from the door, which it goes to for ever. */
CODE("sleeper",
	"1:" DOOR_DX
	"	mov	$-1, %eax\n"
	"	out	%eax, %dx\n"
	"	incl	0x2000\n"
	"	jmp	1b\n");

/* The door for the time at 0x2004 (us); 0x2000 counts. */
CODE("timed",
	"1:" DOOR_DX
	"	mov	0x2004, %eax\n"
	"	out	%eax, %dx\n"
	"	incl	0x2000\n"
	"	jmp	1b\n");

/* Never exits; 0x2000 counts. */
CODE("spinner", "1:	incl	0x2000\n"
	"	jmp	1b\n");

/* The event at 0x2000. */
CODE("event", EVENT_DX
	"	mov	0x2000, %eax\n"
	"	out	%eax, %dx\n"
	"1:	jmp	1b\n");

/* No IDT: the first exception is the third fault. */
CODE("triple", "	ud2\n");

/* Strings of bytes to a port that nobody has; 0x2000 counts. */
CODE("string",
	"1:	mov	$0x80, %dx\n"
	"	mov	$0x100000, %rsi\n"
	"	mov	$0x1000, %ecx\n"
	"	rep outsb\n"
	"	incl	0x2000\n"
	"	jmp	1b\n");

/* Until 0x2018 is set: r8 = r8 * A + C, to 0x2010; 0x2008 counts. Then power
 * off. */
CODE("lcg",
	"	mov	$6364136223846793005, %r9\n"
	"	mov	$1442695040888963407, %r10\n"
	"	xor	%r8, %r8\n"
	"1:	imul	%r9, %r8\n"
	"	add	%r10, %r8\n"
	"	mov	%r8, 0x2010\n"
	"	incq	0x2008\n"
	"	cmpl	$0, 0x2018\n"
	"	je	1b\n"
	EVENT_DX
	"	mov	$1, %eax\n"
	"	out	%eax, %dx\n"
	"2:	jmp	2b\n");

/* Until 0x2018 is set: reads a port that nobody has (all ones) and an MMIO
 * address likewise; 0x2008 counts. Then the event 77 when a value was lost,
 * else power off. */
CODE("reader",
	"1:	mov	$0x80, %dx\n"
	"	xor	%eax, %eax\n"
	"	in	%dx, %eax\n"
	"	cmp	$-1, %eax\n"
	"	jne	2f\n"
	"	mov	$0xd8000000, %ebx\n"
	"	xor	%eax, %eax\n"
	"	mov	(%rbx), %eax\n"
	"	cmp	$-1, %eax\n"
	"	jne	2f\n"
	"	incq	0x2008\n"
	"	cmpl	$0, 0x2018\n"
	"	je	1b\n"
	EVENT_DX
	"	mov	$1, %eax\n"
	"	out	%eax, %dx\n"
	"2:" EVENT_DX
	"	mov	$77, %eax\n"
	"	out	%eax, %dx\n"
	"3:	jmp	3b\n");

/* For ever: the number of the round, from 1, to the first bytes of each page
 * from 2 MiB up to the address at 0x2008, upwards. */
CODE("rounds",
	"	mov	0x2008, %rcx\n"
	"	xor	%r8, %r8\n"
	"1:	inc	%r8\n"
	"	mov	$0x200000, %ebx\n"
	"2:	mov	%r8, (%rbx)\n"
	"	add	$4096, %rbx\n"
	"	cmp	%rcx, %rbx\n"
	"	jne	2b\n"
	"	jmp	1b\n");
/* Handles the interrupt 0x51 by the table that IDTR's image at 0x2100 names;
 * the test fills both. Spins with interrupts off until 0x2018 is set, then takes
 * them for ever; 0x2008 is set before. The handler counts in 0x2000 and waits, before it tells the
 * local APIC, until 0x201c is set. */
CODE("level",
	"	lidt	0x2100\n"
	"	mov	$0xfee000f0, %edi\n"
	"	movl	$0x1ff, (%rdi)\n"
	"	movl	$1, 0x2008\n"
	"1:	pause\n"
	"	cmpl	$0, 0x2018\n"
	"	je	1b\n"
	"	sti\n"
	"2:	pause\n"
	"	jmp	2b\n"
	"	.globl stub_level_handler\n"
	"stub_level_handler:\n"
	"	incl	0x2000\n"
	"3:	pause\n"
	"	cmpl	$0, 0x201c\n"
	"	je	3b\n"
	"	mov	$0xfee000b0, %edi\n"
	"	movl	$0, (%rdi)\n"
	"	iretq\n");
/* clang-format on */

/* clang-format off */
/* Waits for 0x2004, then carries out the list at 0x200000: {address, value,
 * width}, 8 bytes each, until an address of 0; after each write it reads there.
 * 0x2000 counts lists. */
CODE("writer",
	"1:	cmpl	$0, 0x2004\n"
	"	je	1b\n"
	"	movl	$0, 0x2004\n"
	"	mov	$0x200000, %rsi\n"
	"2:	mov	(%rsi), %rdi\n"
	"	mov	8(%rsi), %rax\n"
	"	mov	16(%rsi), %rcx\n"
	"	add	$24, %rsi\n"
	"	test	%rdi, %rdi\n"
	"	jz	9f\n"
	"	cmp	$1, %rcx\n"
	"	jne	3f\n"
	"	mov	%al, (%rdi)\n"
	"	mov	(%rdi), %al\n"
	"	jmp	2b\n"
	"3:	cmp	$2, %rcx\n"
	"	jne	4f\n"
	"	mov	%ax, (%rdi)\n"
	"	mov	(%rdi), %ax\n"
	"	jmp	2b\n"
	"4:	cmp	$8, %rcx\n"
	"	jne	5f\n"
	"	mov	%rax, (%rdi)\n"
	"	mov	(%rdi), %rax\n"
	"	jmp	2b\n"
	"5:	mov	%eax, (%rdi)\n"
	"	mov	(%rdi), %eax\n"
	"	jmp	2b\n"
	"9:	incl	0x2000\n"
	"	jmp	1b\n");
/* clang-format on */

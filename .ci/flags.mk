# Compiler and linker flags of everything that runs on the host.

WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion \
	-Wcast-qual -Wcast-align -Wpointer-arith -Wstrict-prototypes \
	-Wmissing-prototypes -Wwrite-strings -Wvla -Walloca -Wundef \
	-Wformat=2 -Wswitch-enum -Wimplicit-fallthrough
IS_CLANG := $(shell $(CC) --version 2>/dev/null | grep -c clang)
ifeq ($(IS_CLANG),0)
WARN += -Wlogical-op -Wduplicated-cond -Wduplicated-branches \
	-Wnull-dereference -Wjump-misses-init -Warith-conversion
else
WARN += -Wshorten-64-to-32 -Wunreachable-code -Wextra-semi-stmt -Wcomma \
	-Wconditional-uninitialized -Wno-gnu -Wno-gnu-zero-variadic-macro-arguments
endif
WERROR ?= -Werror

CPPFLAGS := -I. -D_GNU_SOURCE
BASE_CFLAGS := -std=gnu17 -g $(WARN) $(WERROR) -pthread
HARDEN := -O2 -D_FORTIFY_SOURCE=2 -fstack-protector-strong \
	-fstack-clash-protection -fcf-protection
HARDEN_LD := -Wl,-z,relro,-z,now,-z,noexecstack

ifeq ($(SAN),)
MODE := $(HARDEN)
# Static: the programs run in a test machine and in a jail as they are.
LDFLAGS := -static-pie $(HARDEN_LD) -pthread
TEST_LDFLAGS := -pie $(HARDEN_LD) -pthread
else
# gcc's value tracking sees null pointers behind the instrumentation.
MODE := -O1 -fno-omit-frame-pointer -fsanitize=$(SAN) \
	-fno-sanitize-recover=all $(if $(filter 0,$(IS_CLANG)),-Wno-null-dereference)
ifeq ($(IS_CLANG)$(SAN),0thread)
# Fences of the guest's drivers, which the unit tests run on the host.
MODE += -Wno-tsan
endif
LDFLAGS := -pie -fsanitize=$(SAN) -pthread
TEST_LDFLAGS := $(LDFLAGS)
endif
# Set by "make fuzz": coverage for libFuzzer everywhere.
ifneq ($(FUZZ),)
MODE += -fsanitize=fuzzer-no-link
endif

CFLAGS := $(BASE_CFLAGS) $(MODE) -fPIE
PIC_CFLAGS := $(BASE_CFLAGS) $(MODE) -fPIC -fvisibility=hidden
SO_LDFLAGS := $(if $(SAN),-fsanitize=$(SAN)) $(HARDEN_LD) -pthread \
	-Wl,-soname,libthaw.so.0
LDLIBS := -lmsgpackc -lseccomp -lxxhash -lzstd -luring -ljansson -lpng -lz -lm
# thaw image build
IMAGE_LIBS := -larchive -lacl -llzma -lz -lzstd -lext2fs -lcom_err
OBJCOPY ?= objcopy

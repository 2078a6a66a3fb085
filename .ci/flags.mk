# Compiler flags of everything that runs on the host.
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
# Static: the executables run in a test machine and in a jail as they are.
ifeq ($(SAN),)
CPPFLAGS += -D_FORTIFY_SOURCE=2
CFLAGS := -std=gnu17 -O2 -g -fPIE -fstack-protector-strong \
	-fstack-clash-protection -fcf-protection $(WARN) $(WERROR) -pthread
LDFLAGS := -static-pie -Wl,-z,relro,-z,now,-z,noexecstack -pthread
else
CFLAGS := -std=gnu17 -O1 -g -fno-omit-frame-pointer -fPIE \
	-fsanitize=$(SAN) -fno-sanitize-recover=all $(WARN) $(WERROR) -pthread
LDFLAGS := -pie -fsanitize=$(SAN) -pthread
endif
LDLIBS := -lmsgpackc -lseccomp -lxxhash -lzstd -luring -ljansson

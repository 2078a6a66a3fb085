/* thaw doctor: what kind of host this is, and what to change for speed. */
#include "api/cli/cli.h"
#include "api/cli/doctor.h"

#include <stdarg.h>
#include <string.h>

static const char *const level_names[] = {"ok", "hint", "warning", "broken"};

void finding_set(struct finding *f, enum doctor_level level, const char *advice,
	const char *fmt, ...)
{
	va_list ap;

	f->level = level;
	va_start(ap, fmt);
	(void)vsnprintf(f->text, sizeof(f->text), fmt, ap);
	va_end(ap);
	(void)snprintf(
		f->advice, sizeof(f->advice), "%s", advice ? advice : "");
}

bool doctor_read_line(const char *path, char *out, size_t size)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(out, (int)size, f) != NULL;

	if (f)
		(void)fclose(f);
	if (ok)
		out[strcspn(out, "\n")] = 0;
	else
		out[0] = 0;
	return ok;
}

static void check_kvm(const struct doctor *d, struct finding *f)
{
	if (d->kvm_rc) {
		finding_set(f, DOCTOR_BROKEN,
			"thaw needs /dev/kvm: a machine with VT-x or AMD-V "
			"turned on, or nested virtualization in a VM, the kvm "
			"module loaded, and read and write permission on it",
			"%s", d->kvm_err.msg);
		return;
	}
	finding_set(f, DOCTOR_OK, NULL, "%s, API %d, up to %u vCPUs",
		kvm_kind_name(d->kvm.kind), d->kvm.api, d->kvm.max_cpus);
}

static void check_kind(const struct doctor *d, struct finding *f)
{
	if (d->kvm_rc)
		finding_set(f, DOCTOR_WARN, NULL, "unknown without KVM");
	else if (d->kvm.kind == KVM_KIND_SOFTWARE)
		finding_set(f, DOCTOR_HINT,
			"the built-in guest works in full; stock Linux guests "
			"need hardware KVM",
			"KVM without VT-x or AMD-V: guest kernels are "
			"emulated");
	else
		finding_set(f, DOCTOR_OK, NULL, "any guest");
}

static void check_caps(const struct doctor *d, struct finding *f)
{
	char missing[300] = "";
	size_t n = 0;

	for (unsigned i = 0; i < d->kvm.ncaps; i++) {
		int w;

		if (d->kvm.caps[i].value)
			continue;
		w = snprintf(missing + n, sizeof(missing) - n, "%s%s",
			n ? ", " : "", d->kvm.caps[i].cap->name);
		if (w < 0 || (size_t)w >= sizeof(missing) - n)
			break;
		n += (size_t)w;
	}
	if (d->kvm.missing)
		finding_set(f, DOCTOR_BROKEN, d->kvm.missing->why,
			"KVM_CAP_%s is missing, and thaw cannot do without",
			d->kvm.missing->name);
	else if (!d->kvm.ncaps)
		finding_set(f, DOCTOR_WARN, NULL, "unknown without KVM");
	else
		finding_set(f, DOCTOR_OK, NULL, "%u looked for%s%s",
			d->kvm.ncaps, n ? "; not here, not needed: " : "",
			missing);
}

static const struct check kvm_checks[] = {
	{"kvm", check_kvm},
	{"guests", check_kind},
	{"capabilities", check_caps},
};

struct report {
	struct cli *c;
	json_t *list; /* NULL: text */
	enum doctor_level worst;
};

static void run_check(
	struct report *r, const struct doctor *d, const struct check *k)
{
	struct finding f = {DOCTOR_OK, "", ""};

	k->run(d, &f);
	if (f.level > r->worst)
		r->worst = f.level;
	if (r->list) {
		json_t *j = json_pack("{s:s, s:s, s:s}", "check", k->name,
			"level", level_names[f.level], "text", f.text);

		if (j && f.advice[0])
			json_object_set_new(j, "advice", json_string(f.advice));
		json_array_append_new(r->list, j);
		return;
	}
	fprintf(r->c->out, "%-8s %-13s %s\n", level_names[f.level], k->name,
		f.text);
	if (f.advice[0])
		fprintf(r->c->out, "%-8s %-13s -> %s\n", "", "", f.advice);
}

static int finish(struct report *r, const struct doctor *d)
{
	bool usable = r->worst != DOCTOR_BROKEN;
	json_t *j;

	if (!r->list) {
		fprintf(r->c->out, "\n%s\n",
			usable ? "This host can run thaw."
			       : "This host cannot run machines.");
		return usable ? EXIT_DONE : EXIT_HOST;
	}
	j = json_pack("{s:b, s:s, s:O}", "usable", usable, "kvm",
		d->kvm_rc ? "none" : kvm_kind_name(d->kvm.kind), "checks",
		r->list);
	if (j && json_dumpf(j, r->c->out, JSON_INDENT(2)) == 0)
		fputc('\n', r->c->out);
	json_decref(j);
	return usable ? EXIT_DONE : EXIT_HOST;
}

static int run_doctor(struct cli *c, void *values)
{
	struct report r = {.c = c};
	struct doctor d = {0};
	int rc;

	(void)values;
	d.kvm_rc = kvm_open("/dev/kvm", &d.kvm, &d.kvm_err);
	if (c->json)
		r.list = json_array();
	for (size_t i = 0; i < ARRAY_SIZE(kvm_checks); i++)
		run_check(&r, &d, &kvm_checks[i]);
	for (size_t i = 0; i < doctor_host_nchecks; i++)
		run_check(&r, &d, &doctor_host_checks[i]);
	rc = finish(&r, &d);
	json_decref(r.list);
	if (!d.kvm_rc)
		kvm_close(&d.kvm);
	return rc;
}

const struct command doctor_command = {"doctor", "",
	"can this host run thaw, and what would make it faster",
	"Exit code 4 when it cannot.", NULL, 0, 0, 0, CMD_JSON, run_doctor};

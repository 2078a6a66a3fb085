/* Printing JSON. */
#include "api/cli/cli.h"
#include "core/mp_json.h"

int json_print(const struct cli *c, const msgpack_object *o)
{
	json_t *j = mp_to_json(o);
	int rc = -1;

	if (j)
		rc = json_dumpf(j, c->out,
			JSON_INDENT(2) | JSON_ENCODE_ANY |
				JSON_REAL_PRECISION(9));
	json_decref(j);
	if (rc || fputc('\n', c->out) == EOF)
		return cli_fail(c, EXIT_FAILED, "cannot write JSON to stdout");
	return EXIT_DONE;
}

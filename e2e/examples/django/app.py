"""A Django application in one file, whose view publishes from SQL.

The message goes out if and when the transaction of the view commits: no signal, no on_commit hook that is lost when the
process dies after the commit, no task queue.
"""
import json
import os
import sys
import urllib.parse

from django.conf import settings

database = urllib.parse.urlsplit(os.environ["DATABASE_URL"])
settings.configure(
    DEBUG=False,
    SECRET_KEY=os.environ.get("SECRET_KEY", "only for the example"),
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database.path.lstrip("/"), "USER": database.username, "PASSWORD": urllib.parse.unquote(database.password or ""),
        "HOST": database.hostname, "PORT": database.port or 5432,
        "ATOMIC_REQUESTS": True,  # each view is one transaction
    }},
)

import django  # noqa: E402

django.setup()

from django.core.management import execute_from_command_line  # noqa: E402
from django.db import connection, models  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.http import require_POST  # noqa: E402


class Order(models.Model):
    status = models.TextField()

    class Meta:
        app_label = "shop"
        db_table = "shop_orders"


def publish(channel, data):
    """Publishes when the transaction at hand commits, and only then."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT forgewire.publish(%s, %s)", [channel, json.dumps(data)])


@require_POST
def pay(request, order_id):
    order = Order.objects.select_for_update().get(pk=order_id)
    order.status = "paid"
    order.save()
    publish(f"orders:{order.pk}", {"status": order.status})
    if "fail" in request.GET:
        raise RuntimeError("the card was refused")  # rolls back, and so nothing is published
    return JsonResponse({"status": order.status})


urlpatterns = [path("orders/<int:order_id>/pay", pay)]

if __name__ == "__main__":
    with connection.schema_editor() as editor:
        if Order._meta.db_table not in connection.introspection.table_names():
            editor.create_model(Order)
    Order.objects.get_or_create(pk=42, defaults={"status": "new"})
    execute_from_command_line([sys.argv[0], "runserver", "--noreload", f"127.0.0.1:{os.environ.get('WEB_PORT', 3000)}"])

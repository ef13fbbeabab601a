"""The front desk of a clinic."""

from typing import Annotated, Literal

from pydantic import Field


def find_doctors(
    specialty: Literal["cardiology", "dermatology", "pediatrics", "orthopedics", "eye_care"], city: str
) -> str:
    """Find doctors of a specialty in a city.

    Args:
        specialty: The medical field.
        city: The city of the practice.
    """
    return "none"


def book_appointment(patient: str, doctor: str, date: str, time: str) -> str:
    """Book an appointment for a patient with a doctor.

    Args:
        patient: Full name of the patient.
        doctor: Last name of the doctor.
        date: The day as YYYY-MM-DD.
        time: The time as HH:MM.
    """
    return "ok"


def cancel_appointment(appointment_number: int) -> str:
    """Cancel an appointment.

    Args:
        appointment_number: The number of the appointment.
    """
    return "ok"


def list_appointments(doctor: str, date: str | None = None) -> str:
    """List the appointments of a doctor.

    Args:
        doctor: Last name of the doctor.
        date: The day as YYYY-MM-DD; all days if it is left out.
    """
    return "none"


def get_invoice(invoice_id: Annotated[str, Field(pattern=r"^INV-\d{4}$")]) -> str:
    """Get an invoice with its amount and whether it is paid.

    Args:
        invoice_id: Number of the invoice, such as INV-2045.
    """
    return "none"


def refill_prescription(prescription_id: Annotated[str, Field(pattern=r"^RX-\d{4}$")], tablets: int = 30) -> str:
    """Refill a prescription.

    Args:
        prescription_id: Number of the prescription, such as RX-1180.
        tablets: How many tablets.
    """
    return "ok"


def record_blood_pressure(patient: str, systolic: int, diastolic: int) -> str:
    """Record a blood pressure reading of a patient.

    Args:
        patient: Full name of the patient.
        systolic: The upper value in mmHg.
        diastolic: The lower value in mmHg.
    """
    return "ok"


def send_message(patient: str, text: str) -> str:
    """Send a text message to a patient.

    Args:
        patient: Full name of the patient.
        text: What the message says.
    """
    return "ok"


def set_room_status(room: Annotated[int, Field(ge=1, le=20)], status: Literal["free", "occupied", "cleaning"]) -> str:
    """Set the status of an examination room.

    Args:
        room: Number of the room.
        status: The new status.
    """
    return "ok"


def get_lab_result(patient: str, test: Literal["blood_count", "glucose", "cholesterol", "urine"]) -> str:
    """Get the latest laboratory result of a patient.

    Args:
        patient: Full name of the patient.
        test: The kind of test.
    """
    return "none"


def order_supplies(
    item: Literal["gloves", "masks", "syringes", "bandages", "disinfectant"], boxes: int, express: bool = False
) -> str:
    """Order supplies for the clinic.

    Args:
        item: What is ordered.
        boxes: How many boxes.
        express: Whether to have it delivered the next day.
    """
    return "ok"
